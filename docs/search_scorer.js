// How the search orders what it finds: guides before the reference, operators before the client's internals.
const LATER = /^(architecture|changelog|compatibility|contributing|proof|reference\/(client|client-errors|endpoints|sandbox))$/;
const SOONER = /^(get-started|concepts|troubleshooting|errors|connection|how-to\/.*|reference\/(operators|sensors|transfers))$/;

Scorer = {
  score: ([docname, , , , score]) => score + (LATER.test(docname) ? -20 : SOONER.test(docname) ? 10 : 0),
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
