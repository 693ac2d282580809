"""``python -m emotion_lab <command>``: the same as ``emotion-lab <command>``."""

from emotion_lab.cli.main import main

if __name__ == "__main__":
    main()
