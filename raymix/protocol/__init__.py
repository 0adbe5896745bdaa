"""Named evaluation protocols: what a number such as CIoU@0.3 means, as one frozen value whose id travels with it.

The paper (Sections 4.2-4.4) leaves several of these choices open, and published code fills them in differently; so no
score in raymix exists without a protocol. The choices are in `choices`, the values in `presets`: one more protocol is one
more value there.
"""

from raymix.protocol.choices import Protocol
from raymix.protocol.presets import PROTOCOLS, RAYMIX_1, protocol

__all__ = ["PROTOCOLS", "RAYMIX_1", "Protocol", "protocol"]
