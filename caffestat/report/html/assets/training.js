// A training log: events, and the slider that moves the drawing's colours through the iterations.

function startTraining() {}
