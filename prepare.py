"""Turn text into nanoGPT's train.bin and val.bin: `python prepare.py --help` says how.

Copy this file and the folder nanogpt_compat/, which does the work, into nanoGPT's data/<name>/. Python 3.6
to 3.9 must get as far as the message that they are too old: use no newer syntax here.
"""

import os
import sys

if __name__ == "__main__":
    home = os.path.dirname(os.path.abspath(__file__))
    # Python looks there first, and takes an installed package if there is none: perhaps of another version.
    folder = os.path.dirname(os.path.realpath(__file__))
    if not os.path.isfile(os.path.join(folder, "nanogpt_compat", "__main__.py")):
        sys.stderr.write(f"prepare.py needs the folder nanogpt_compat/; copy it to {home} too\n")
        sys.exit(2)
    from nanogpt_compat.__main__ import start

    sys.exit(start(home))
