import sys

from pdserver.cli import main

sys.exit(main())
