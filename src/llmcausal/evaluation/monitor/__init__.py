"""Attack success in production: canaries, real traffic, and the series of their rounds."""
