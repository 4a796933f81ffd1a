"""`python -m llmcausal` is the console script."""

from llmcausal.cli.app import main

if __name__ == "__main__":
    main()
