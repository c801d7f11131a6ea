"""The tiny family: how assets/tiny is made, and what it is worth."""
