package gateway

import (
	"net/http"
	"strings"

	"github.com/gorilla/mux"
)

// operation is one of S3's, as the router finds it.
type operation struct {
	name     string
	inBucket bool // the bucket is looked up before; GetObject, HeadObject and PutObject do it themselves
	run      func(*exchange) error
	series   *series
}

// ServeHTTP implements http.Handler; w is always an exchange.
func (o *operation) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	if x, ok := w.(*exchange); ok {
		x.err = o.run(x)
	}
}

// routers: one for each kind of resource, since a bucket may be named by the
// host as well as by the path, and a key may be any text.
type routers struct{ service, bucket, object *mux.Router }

func (t *routers) of(x *exchange) *mux.Router {
	switch {
	case x.name == "":
		return t.service
	case x.key == "":
		return t.bucket
	}
	return t.object
}

// with matches requests whose query has a parameter.
func with(name string) mux.MatcherFunc {
	return func(r *http.Request, _ *mux.RouteMatch) bool { return hasParameter(r.URL.RawQuery, name) }
}

// plain matches requests that name no sub-resource.
func plain(r *http.Request, _ *mux.RouteMatch) bool {
	for rest := r.URL.RawQuery; rest != ""; {
		var part string
		part, rest, _ = strings.Cut(rest, "&")
		name, _, _ := strings.Cut(part, "=")
		if isSubresource(name) || strings.IndexByte(name, '%') >= 0 && isSubresource(decoded(name)) {
			return false
		}
	}
	return true
}

func hasParameter(query, want string) bool {
	for query != "" {
		var part string
		part, query, _ = strings.Cut(query, "&")
		name, _, _ := strings.Cut(part, "=")
		if name == want || strings.IndexByte(name, '%') >= 0 && decoded(name) == want {
			return true
		}
	}
	return false
}

func decoded(name string) string {
	name, _ = unescape(name)
	return name
}

// isSubresource knows every parameter of S3 that makes a request another
// operation, also those that are not built.
func isSubresource(name string) bool {
	switch name {
	case "uploads", "uploadId", "delete", "location", "attributes", "versions",
		"accelerate", "acl", "analytics", "annotation", "cors", "encryption", "intelligent-tiering", "inventory", "legal-hold",
		"lifecycle", "logging", "metadataAnnotationTable", "metadataConfiguration", "metadataInventoryTable", "metadataJournalTable", "metadataTable",
		"metrics", "notification", "object-lock", "ownershipControls", "policy", "policyStatus", "publicAccessBlock",
		"renameObject", "replication", "requestPayment", "restore", "retention", "select", "session", "tagging", "torrent",
		"versioning", "website", "abac", "encryptionConfiguration":
		return true
	}
	return false
}

func (g *gateway) newRouters() routers {
	return routers{service: g.serviceRoutes(), bucket: g.bucketRoutes(), object: g.objectRoutes()}
}

// add registers one operation. Without a parameter it is for plain requests.
func (g *gateway) add(r *mux.Router, method, name string, inBucket bool, run func(*exchange) error, params ...string) {
	route := r.Methods(method)
	if len(params) == 0 {
		route = route.MatcherFunc(plain)
	}
	for _, p := range params {
		route = route.MatcherFunc(with(p))
	}
	route.Handler(&operation{name: name, inBucket: inBucket, run: run, series: g.metrics.series(name)})
}

// rest answers every sub-resource that no route before has matched.
func (g *gateway) rest(r *mux.Router) {
	r.MatcherFunc(func(r *http.Request, m *mux.RouteMatch) bool { return !plain(r, m) }).
		Handler(&operation{name: "NotImplemented", run: notBuilt, series: g.metrics.series("NotImplemented")})
}

// notBuilt names what was asked for, by method and sub-resource or as S3 does.
func notBuilt(x *exchange) error {
	for _, p := range x.query {
		if isSubresource(p.name) {
			return operationNotBuilt(x.r.Method + " with ?" + p.name)
		}
	}
	return operationNotBuilt(x.op.name)
}

func (g *gateway) serviceRoutes() *mux.Router {
	r := mux.NewRouter().SkipClean(true).UseEncodedPath()
	g.add(r, "GET", "ListBuckets", false, (*exchange).listBuckets)
	g.rest(r)
	return r
}

func (g *gateway) bucketRoutes() *mux.Router {
	r := mux.NewRouter().SkipClean(true).UseEncodedPath()
	g.add(r, "GET", "ListObjects", true, (*exchange).listObjects)
	g.add(r, "HEAD", "HeadBucket", true, (*exchange).headBucket)
	g.add(r, "PUT", "CreateBucket", false, (*exchange).createBucket)
	g.add(r, "DELETE", "DeleteBucket", true, (*exchange).deleteBucket)
	g.add(r, "POST", "PostObject", false, notBuilt)
	g.add(r, "POST", "DeleteObjects", true, (*exchange).deleteObjects, "delete")
	g.add(r, "GET", "ListMultipartUploads", true, (*exchange).listUploads, "uploads")
	g.add(r, "GET", "ListObjectVersions", true, (*exchange).listVersions, "versions")
	g.add(r, "GET", "GetBucketLocation", true, (*exchange).getLocation, "location")
	for _, u := range unconfigured() {
		g.add(r, "GET", u.operation, true, u.answer, u.parameter)
	}
	g.rest(r)
	return r
}

func (g *gateway) objectRoutes() *mux.Router {
	r := mux.NewRouter().SkipClean(true).UseEncodedPath()
	g.add(r, "GET", "GetObject", false, (*exchange).getObject)
	g.add(r, "HEAD", "HeadObject", false, (*exchange).headObject)
	g.add(r, "PUT", "PutObject", false, (*exchange).putOrCopy)
	g.add(r, "DELETE", "DeleteObject", true, (*exchange).deleteObject)
	g.add(r, "PUT", "UploadPart", true, (*exchange).uploadPart, "uploadId")
	g.add(r, "POST", "CreateMultipartUpload", true, (*exchange).createUpload, "uploads")
	g.add(r, "POST", "CompleteMultipartUpload", true, (*exchange).completeUpload, "uploadId")
	g.add(r, "DELETE", "AbortMultipartUpload", true, (*exchange).abortUpload, "uploadId")
	g.add(r, "GET", "ListParts", true, (*exchange).listParts, "uploadId")
	g.add(r, "GET", "GetObjectAttributes", true, (*exchange).getAttributes, "attributes")
	g.add(r, "GET", "GetObjectAcl", true, (*exchange).getObjectACL, "acl")
	g.add(r, "GET", "GetObjectTagging", true, (*exchange).getObjectTagging, "tagging")
	g.rest(r)
	return r
}
