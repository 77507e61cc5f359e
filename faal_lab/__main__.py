"""`python -m faal_lab` is the `faal-lab` command."""

import sys

from faal_lab.cli import main

sys.exit(main())
