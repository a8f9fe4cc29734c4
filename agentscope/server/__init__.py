"""The receiver: takes events over four protocols, stores them, and shows them."""
