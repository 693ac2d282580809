"""WebDataset shards: storage, index, sampler and writer."""
