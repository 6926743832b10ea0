"""The messages of the contract, typed: one module for each family of verbs."""
