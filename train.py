"""`python train.py --config=configs/NAME.py --workdir=DIR ...`: the same as `eca-jax train`."""

import sys

from eca_jax.commands.train import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
