"""Whose each dataset is: what its publisher says about use, and who made its splits; what a dataset card tells of it.

In our words and as far as known when this was written: the publisher's page decides, not this table.
"""

from __future__ import annotations

from dataclasses import dataclass

OURS = "Ours: by a seeded hash of the group (the video, or the speaker), so that a group is in one split only."
YOUTUBE = "The videos are YouTube's users', who keep their rights; a list gives none on them."


@dataclass(frozen=True)
class Publisher:
    """What a card says of a dataset beyond its numbers."""

    title: str
    licence: str
    splits: str = OURS


PUBLISHERS = {
    "demo": Publisher("raymix's demo", "Made by raymix itself, pictures and sounds: no rights of others."),
    "folder": Publisher(
        "A folder of videos",
        "Unknown: these are your own videos, or somebody's whom you can ask. raymix neither knows nor checks.",
    ),
    "music": Publisher(
        "MUSIC (Zhao et al. 2018), with the boxes of DSOL (Hu et al. 2020)",
        f"The lists of videos came without a licence; the boxes lie in a repository under MIT. {YOUTUBE}",
        "By the published lists where they name a video; the rest by a seeded hash of the video.",
    ),
    "vggsound_instruments": Publisher(
        "VGGSound-Instruments (Hu et al. 2022), a part of VGGSound (Chen et al. 2020)",
        f"VGGSound's lists are under CC BY 4.0; the masks came without a licence of their own. {YOUTUBE}",
        "By the published lists; what they leave open by a seeded hash of the video.",
    ),
    "vggss": Publisher(
        "VGG-SS (Chen et al. 2021), boxes on VGGSound's test videos",
        f"VGGSound's lists are under CC BY 4.0; the boxes lie in a repository under Apache-2.0. {YOUTUBE}",
        "By the published lists; what they leave open by a seeded hash of the video.",
    ),
    "voxceleb2": Publisher(
        "VoxCeleb2 (Chung et al. 2018)",
        f"The publisher named CC BY 4.0, and asks for care with persons' faces and voices. {YOUTUBE}",
        "By the published lists of speakers; what they leave open by a seeded hash of the speaker.",
    ),
    "flickr_soundnet": Publisher(
        "Flickr-SoundNet, with the boxes of Senocak et al. 2018",
        "The publisher of the boxes allows research only; the videos are of Flickr's users, each under a licence of its own.",
        "By the published lists; what they leave open by a seeded hash of the video.",
    ),
}


def publisher(name: str) -> Publisher:
    """What is known of a dataset; of one that is not in the table, that nothing is."""
    return PUBLISHERS[name] if name in PUBLISHERS else Publisher(name, "Unknown to raymix: ask its publisher.")
