"""One module per engine; see `base` for what a backend must do and `registry` for how it is found."""
