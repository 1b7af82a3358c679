"""The losses a model trains under: masked modeling and contrastive alignment."""
