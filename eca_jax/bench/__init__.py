"""Speed, measured or estimated, with the peer beside it."""
