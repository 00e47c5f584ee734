// Package mutants is the test of the test: it breaks Kintsugi on purpose, one
// promise at a time, and demands that the seeds of the cluster of many
// processes (package cluster, TestNemeses) notice. A mutant is a change of text
// in one source file; where the text is not there any more, the mutant has to
// be brought up to date. All of them are given to the compiler at once, as an
// overlay: each changed line asks which promise is broken, and the answer is in
// the environment. So one binary is built for all, nothing of it is in the
// sources, and with no promise broken the same binary has to pass. Each names the
// nemeses that make its promise matter.
//
// It takes a minute of two processors and runs where KINTSUGI_MUTANTS is set;
// KINTSUGI_MUTANTS=word runs those whose promise has the word.
package mutants
