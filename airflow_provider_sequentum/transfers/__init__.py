"""Transfer operators that move files between Sequentum Cloud and object storage."""
