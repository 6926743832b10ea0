"""The typed messages of the contract, one module for each family of verbs."""
