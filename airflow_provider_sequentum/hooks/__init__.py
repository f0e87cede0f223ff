"""The connection to Sequentum Cloud."""
