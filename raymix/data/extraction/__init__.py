"""One media file to clips: track selection, decoding of video and audio, colour conversion, cutting.

`clips` dispatches on the form of the medium, `video` decodes containers with PyAV, `frames_and_audio` reads image files
with an audio file, `clip_plan` decides which spans and frames are cut, `track_selection`, `color` and `audio_decoding`
handle what files in the wild contain. Which files there are is decided by `raymix.data.importers`.
"""
