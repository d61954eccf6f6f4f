"""`python train.py --config=configs/NAME.py --workdir=DIR ...`: the same as `eca-jax train`."""

import sys

from eca_jax.commands.main import main

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    sys.exit(main())
