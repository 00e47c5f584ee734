package gateway

import "net/http"

// unconfiguredRead is a read of a bucket's configuration that is not built.
// Common clients ask such questions of every bucket, so they get what a bucket
// without that configuration answers. Changing it is NotImplemented.
type unconfiguredRead struct {
	parameter, operation string
	answer               func(*exchange) error
}

func unconfigured() []unconfiguredRead {
	missing := func(f *fault) func(*exchange) error { return func(*exchange) error { return f } }
	document := func(root, content string) func(*exchange) error {
		return func(x *exchange) error {
			o := x.g.takeXML()
			defer x.g.giveXML(o)
			o.root(root)
			o.b = append(o.b, content...)
			o.close(root)
			x.sendXML(http.StatusOK, o)
			return nil
		}
	}
	return []unconfiguredRead{
		{"versioning", "GetBucketVersioning", document("VersioningConfiguration", "")},
		{"acl", "GetBucketAcl", (*exchange).getACL},
		{"tagging", "GetBucketTagging", missing(errNoSuchTagSet)},
		{"lifecycle", "GetBucketLifecycleConfiguration", missing(errNoSuchLifecycle)},
		{"policyStatus", "GetBucketPolicyStatus", missing(errNoSuchBucketPolicy)},
		{"policy", "GetBucketPolicy", missing(errNoSuchBucketPolicy)},
		{"cors", "GetBucketCors", missing(errNoSuchCORS)},
		{"encryption", "GetBucketEncryption", missing(errSSENotFound)},
		{"object-lock", "GetObjectLockConfiguration", missing(errObjectLockNotFound)},
		{"website", "GetBucketWebsite", missing(errNoSuchWebsite)},
		{"replication", "GetBucketReplication", missing(errReplicationNotFound)},
		{"publicAccessBlock", "GetPublicAccessBlock", missing(errNoSuchPublicAccessBlock)},
		{"ownershipControls", "GetBucketOwnershipControls", document("OwnershipControls", "<Rule><ObjectOwnership>BucketOwnerEnforced</ObjectOwnership></Rule>")},
		{"notification", "GetBucketNotificationConfiguration", document("NotificationConfiguration", "")},
		{"logging", "GetBucketLogging", document("BucketLoggingStatus", "")},
		{"accelerate", "GetBucketAccelerateConfiguration", document("AccelerateConfiguration", "")},
		{"requestPayment", "GetBucketRequestPayment", document("RequestPaymentConfiguration", "<Payer>BucketOwner</Payer>")},
	}
}

// getACL answers GetBucketAcl: the owner, and nobody else, may do everything.
func (x *exchange) getACL() error {
	o := x.g.takeXML()
	defer x.g.giveXML(o)
	owner := x.bucket.Owner
	o.root("AccessControlPolicy").owner("Owner", owner).open("AccessControlList").open("Grant")
	o.b = append(o.b, `<Grantee xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="CanonicalUser">`...)
	o.text("ID", ownerID(owner)).text("DisplayName", "kintsugi").close("Grantee").text("Permission", "FULL_CONTROL")
	o.close("Grant").close("AccessControlList").close("AccessControlPolicy")
	x.sendXML(http.StatusOK, o)
	return nil
}

// getObjectACL answers GetObjectAcl.
func (x *exchange) getObjectACL() error {
	if _, err := x.current(); err != nil {
		return err
	}
	return x.getACL()
}

// getObjectTagging answers GetObjectTagging: there are no tags.
func (x *exchange) getObjectTagging() error {
	if _, err := x.current(); err != nil {
		return err
	}
	o := x.g.takeXML()
	defer x.g.giveXML(o)
	o.root("Tagging").open("TagSet").close("TagSet").close("Tagging")
	x.sendXML(http.StatusOK, o)
	return nil
}
