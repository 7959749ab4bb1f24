"""From files to batches: images, labels, transforms, caches, samplers."""
