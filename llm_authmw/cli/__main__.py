"""`python -m llm_authmw.cli`, where the script is not on the path."""

from llm_authmw.cli import main

main()
