// Two runs beside each other.

function startComparison() {}
