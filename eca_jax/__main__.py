"""`python -m eca_jax`."""

import sys

from eca_jax.commands.main import main

sys.exit(main())
