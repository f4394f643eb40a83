"""The flow of the interaction network on a GPU: all steps of an integration as one CUDA graph."""
