"""The model: text encoder-decoder, vision encoder, fusion, and the search for the likeliest profile."""
