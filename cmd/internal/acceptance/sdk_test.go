package acceptance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
)

func noise(seed byte, n int) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(p) // never fails
	return p
}

// sdk is a client of aws-sdk-go-v2 as its configuration makes them by itself, but
// for the address.
func (s *site) sdk() *awss3.Client {
	return awss3.New(awss3.Options{
		Region: "us-east-1", BaseEndpoint: aws.String(s.url()), UsePathStyle: true,
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenSupported,
		ResponseChecksumValidation: aws.ResponseChecksumValidationWhenSupported,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: s.access, SecretAccessKey: s.secret}, nil
		}),
	})
}

// TestAWSSDKGo: what programs do with aws-sdk-go-v2, whose requests carry checksums
// and whose answers are verified by them.
func TestAWSSDKGo(t *testing.T) {
	everyStore(t, func(t *testing.T, s *site) {
		c, bucket := s.sdk(), aws.String("sdk")
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		if _, err := c.CreateBucket(ctx, &awss3.CreateBucketInput{Bucket: bucket}); err != nil {
			t.Fatal(err)
		}
		for i, n := range []int{0, 1, 4096, 65536, 65537, 1 << 20, 9 << 20} {
			sdkObject(ctx, t, c, bucket, aws.String(fmt.Sprintf("a b/naïve ✓/%d", n)), noise(byte(i), n))
		}
		sdkParts(ctx, t, c, bucket)
		sdkConditions(ctx, t, c, bucket)
		sdkPresigned(ctx, t, c, bucket)
		sdkCleanUp(ctx, t, c, bucket)
	})
}

// sdkObject puts an object and reads it back, whole and in part.
func sdkObject(ctx context.Context, t *testing.T, c *awss3.Client, bucket, key *string, body []byte) {
	t.Helper()
	put, err := c.PutObject(ctx, &awss3.PutObjectInput{
		Bucket: bucket, Key: key, Body: bytes.NewReader(body), ContentType: aws.String("x/y"), Metadata: map[string]string{"colour": "gold"},
	})
	if err != nil {
		t.Fatalf("%s: %v", *key, err)
	}
	got, err := c.GetObject(ctx, &awss3.GetObjectInput{Bucket: bucket, Key: key, ChecksumMode: types.ChecksumModeEnabled})
	if err != nil {
		t.Fatalf("%s: %v", *key, err)
	}
	defer got.Body.Close()
	text, err := io.ReadAll(got.Body)
	if err != nil || !bytes.Equal(text, body) || *got.ETag != *put.ETag || *got.ContentType != "x/y" || got.Metadata["colour"] != "gold" ||
		put.ChecksumCRC32 == nil || got.ChecksumCRC32 == nil || *got.ChecksumCRC32 != *put.ChecksumCRC32 {
		t.Fatalf("%s: %d bytes of %d, %v: %+v after %+v", *key, len(text), len(body), err, got, put)
	}
	if len(body) < 10 {
		return
	}
	part, err := c.GetObject(ctx, &awss3.GetObjectInput{Bucket: bucket, Key: key, Range: aws.String("bytes=-7")})
	if err != nil {
		t.Fatalf("%s: %v", *key, err)
	}
	defer part.Body.Close()
	if text, err = io.ReadAll(part.Body); err != nil || !bytes.Equal(text, body[len(body)-7:]) {
		t.Fatalf("%s: its end is %x, %v", *key, text, err)
	}
}

// sdkParts uploads in parts, copies the result, and reads it by parts.
func sdkParts(ctx context.Context, t *testing.T, c *awss3.Client, bucket *string) {
	t.Helper()
	key, body := aws.String("parts"), noise(99, 12<<20)
	up, err := c.CreateMultipartUpload(ctx, &awss3.CreateMultipartUploadInput{Bucket: bucket, Key: key, ChecksumAlgorithm: types.ChecksumAlgorithmCrc32c})
	if err != nil {
		t.Fatal(err)
	}
	var parts []types.CompletedPart
	for i, p := range slices.Collect(slices.Chunk(body, 5<<20)) {
		n := aws.Int32(int32(i + 1))
		done, err := c.UploadPart(ctx, &awss3.UploadPartInput{Bucket: bucket, Key: key, UploadId: up.UploadId, PartNumber: n, Body: bytes.NewReader(p), ChecksumAlgorithm: types.ChecksumAlgorithmCrc32c})
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, types.CompletedPart{PartNumber: n, ETag: done.ETag, ChecksumCRC32C: done.ChecksumCRC32C})
	}
	if _, err := c.CompleteMultipartUpload(ctx, &awss3.CompleteMultipartUploadInput{Bucket: bucket, Key: key, UploadId: up.UploadId,
		MultipartUpload: &types.CompletedMultipartUpload{Parts: parts}}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.CopyObject(ctx, &awss3.CopyObjectInput{Bucket: bucket, Key: aws.String("copy"), CopySource: aws.String(*bucket + "/parts")}); err != nil {
		t.Fatal(err)
	}
	for _, in := range []*awss3.GetObjectInput{{Key: key}, {Key: aws.String("copy")}, {Key: key, PartNumber: aws.Int32(3)}} {
		in.Bucket, in.ChecksumMode = bucket, types.ChecksumModeEnabled
		want := body
		if in.PartNumber != nil {
			want = body[10<<20:]
		}
		got, err := c.GetObject(ctx, in)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(got.Body)
		_ = got.Body.Close()
		if err != nil || !bytes.Equal(text, want) {
			t.Fatalf("%s: %d bytes of %d, %v", *in.Key, len(text), len(want), err)
		}
	}
}

// sdkConditions: the SDK knows what failed.
func sdkConditions(ctx context.Context, t *testing.T, c *awss3.Client, bucket *string) {
	t.Helper()
	_, err := c.PutObject(ctx, &awss3.PutObjectInput{Bucket: bucket, Key: aws.String("parts"), Body: strings.NewReader("x"), IfNoneMatch: aws.String("*")})
	if api := smithy.APIError(nil); !errors.As(err, &api) || api.ErrorCode() != "PreconditionFailed" {
		t.Errorf("written over: %v", err)
	}
	_, err = c.HeadObject(ctx, &awss3.HeadObjectInput{Bucket: bucket, Key: aws.String("nothing")})
	if missing := (*types.NotFound)(nil); !errors.As(err, &missing) {
		t.Errorf("no such key: %v", err)
	}
	_, err = c.GetObject(ctx, &awss3.GetObjectInput{Bucket: bucket, Key: aws.String("nothing")})
	if missing := (*types.NoSuchKey)(nil); !errors.As(err, &missing) {
		t.Errorf("no such key: %v", err)
	}
	_, err = c.HeadBucket(ctx, &awss3.HeadBucketInput{Bucket: aws.String("another")})
	if missing := (*types.NotFound)(nil); !errors.As(err, &missing) {
		t.Errorf("no such bucket: %v", err)
	}
}

// sdkPresigned: URLs that the SDK signs are good for whoever has them.
func sdkPresigned(ctx context.Context, t *testing.T, c *awss3.Client, bucket *string) {
	t.Helper()
	signer, key := awss3.NewPresignClient(c), aws.String("signed + key")
	put, err := signer.PresignPutObject(ctx, &awss3.PutObjectInput{Bucket: bucket, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	get, err := signer.PresignGetObject(ctx, &awss3.GetObjectInput{Bucket: bucket, Key: key, ResponseContentType: aws.String("text/plain")})
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct{ method, url, body, want string }{{put.Method, put.URL, "by a URL", ""}, {get.Method, get.URL, "", "by a URL"}} {
		r, err := http.NewRequestWithContext(ctx, step.method, step.url, strings.NewReader(step.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || string(text) != step.want || step.want != "" && resp.Header.Get("Content-Type") != "text/plain" {
			t.Fatalf("%s: %s %q, %v", step.method, resp.Status, text, err)
		}
	}
}

// sdkCleanUp lists in pages, and deletes everything at once.
func sdkCleanUp(ctx context.Context, t *testing.T, c *awss3.Client, bucket *string) {
	t.Helper()
	var all []types.ObjectIdentifier
	pages := awss3.NewListObjectsV2Paginator(c, &awss3.ListObjectsV2Input{Bucket: bucket, MaxKeys: aws.Int32(3)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range page.Contents {
			all = append(all, types.ObjectIdentifier{Key: o.Key})
		}
	}
	if len(all) != 10 {
		t.Errorf("%d keys are listed", len(all))
	}
	done, err := c.DeleteObjects(ctx, &awss3.DeleteObjectsInput{Bucket: bucket, Delete: &types.Delete{Objects: all}})
	if err != nil || len(done.Deleted) != len(all) || len(done.Errors) != 0 {
		t.Errorf("%+v, %v", done, err)
	}
	if _, err := c.DeleteBucket(ctx, &awss3.DeleteBucketInput{Bucket: bucket}); err != nil {
		t.Error(err)
	}
}
