"""Published weights: the catalogue (`cards/*.toml`) and how its files are downloaded."""
