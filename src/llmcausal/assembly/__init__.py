"""The commands' workflows, about one file each: the only package that knows every part."""

import logging

# bitsandbytes warns on import that an optional CPU kernel is missing; `doctor` reports what works.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
