"""What a map and a session are worth: masks, FSC, sharpening, local resolution, symmetry, views, forecast."""
