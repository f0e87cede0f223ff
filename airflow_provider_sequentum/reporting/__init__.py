"""What a task tells others of its runs: buttons, XComs, asset events, lineage."""
