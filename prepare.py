"""Turn text into nanoGPT's train.bin and val.bin: `python prepare.py --help` says how.

Copy this file and the folder nanogpt_compat/, which does the work, into nanoGPT's data/<name>/. Any Python
can read this file, so that an old one is told that it is too old.
"""

import os
import sys

if __name__ == "__main__":
    home = os.path.dirname(os.path.abspath(__file__))
    try:
        from nanogpt_compat.__main__ import start  # imports only sys, so it fails only if it is not there
    except ImportError:
        sys.stderr.write("prepare.py needs the folder nanogpt_compat/; copy it to " + home + " too\n")
        sys.exit(2)
    sys.exit(start(home))
