"""`python -m eca_jax`."""

import sys

from eca_jax.cli import main

sys.exit(main())
