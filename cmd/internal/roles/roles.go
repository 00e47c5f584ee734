// Package roles puts the processes of a cluster together: a gateway, a
// repairer, a storage node. Each takes its file system, its connections and
// its metadata engine from outside, so that `kintsugi gateway` runs it over
// real ones, and fault tests the same over ones that fail.
//
// What a process may be trusted with follows from what it is given. A storage
// node has drives and the cluster's secret, and no metadata: whoever owns it
// can lose what is on its drives, and nothing else. Gateways and repairers have
// the metadata. Users' credentials are the gateways' alone.
package roles
