"""`python train.py --config=configs/NAME.py --workdir=DIR ...`: the same as `eca-jax train`."""

import sys

from eca_jax.commands import huge_pages
from eca_jax.commands.main import leave_libtpu_alone
from eca_jax.commands.train import main

if __name__ == "__main__":
    leave_libtpu_alone()
    huge_pages.take()
    sys.exit(main(["train", *sys.argv[1:]]))
