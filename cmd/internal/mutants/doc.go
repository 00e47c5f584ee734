// Package mutants is the test of the test: it breaks Kintsugi on purpose, one
// promise at a time, and demands that the seeds of the cluster of many
// processes (package cluster, TestNemeses) notice. A mutant is a change of text
// in one source file, given to the compiler as an overlay; where the text is
// not there any more, the mutant has to be brought up to date.
//
// The whole takes several minutes and runs where KINTSUGI_MUTANTS is set;
// KINTSUGI_MUTANTS=word runs those whose name has the word. One always runs.
package mutants
