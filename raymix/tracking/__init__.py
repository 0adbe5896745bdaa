"""What is recorded of a study: its event log, the state replayed from it, checkpoints, and significance of its scores.

`event_log` appends and reads records, `study` replays them into trials and best checkpoints, `checkpoint` saves,
verifies and deletes the folder of one (trial, epoch), `significance` tests scores against chance and the shuffled-audio
control.

No Ray, and no torch at import: the leaderboard reads studies in a second.
"""
