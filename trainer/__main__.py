"""`torchrun ... -m phi3v.trainer` is `phi3v-train` on several processes."""

from phi3v.cli import train_main

if __name__ == "__main__":
    train_main()
