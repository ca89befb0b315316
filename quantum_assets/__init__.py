"""What is computed: the assets, their kernels, their wire contracts and their proofs."""
