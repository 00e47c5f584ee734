package acceptance

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestS3fs mounts a bucket and uses it as a folder.
func TestS3fs(t *testing.T) {
	everyStore(t, func(t *testing.T, s *site) {
		need(t, "s3fs")
		if f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); err != nil {
			t.Skipf("s3fs needs /dev/fuse: %v", err)
		} else {
			_ = f.Close()
		}
		s.run("aws", "s3", "mb", "s3://mounted")
		unmount := s.mount("mounted", filepath.Join(s.root, "mnt"))
		folder, src := filepath.Join(s.root, "mnt", "a folder"), filepath.Join(goSource(t), "archive")
		s.run("cp", "-r", src, folder)
		sameTree(t, tree(t, src), tree(t, folder))
		s.run("mv", filepath.Join(folder, "tar"), filepath.Join(folder, "moved"))
		big := filepath.Join(s.root, "big")
		randomFile(t, big, 60<<20) // in parts, and what is changed of it by copied parts
		s.run("cp", big, filepath.Join(folder, "big"))
		patch := []string{"conv=notrunc", "bs=1", "seek=31457280", "count=9", "if=" + os.Args[0]}
		s.run("dd", append(patch, "of="+big)...)
		s.run("dd", append(patch, "of="+filepath.Join(folder, "big"))...)
		s.run("rm", "-r", filepath.Join(folder, "zip"))
		unmount()

		defer s.mount("mounted", filepath.Join(s.root, "again"))()
		folder = filepath.Join(s.root, "again", "a folder")
		want := tree(t, filepath.Join(src, "tar"))
		sameTree(t, want, tree(t, filepath.Join(folder, "moved")))
		if _, err := os.Stat(filepath.Join(folder, "zip")); !os.IsNotExist(err) {
			t.Errorf("a removed folder: %v", err)
		}
		sum, err := fileSum(big)
		if got, err2 := fileSum(filepath.Join(folder, "big")); err != nil || err2 != nil || got != sum {
			t.Errorf("hash %s, want %s, %v, %v", got, sum, err, err2)
		}
	})
}

// mount has s3fs serve a bucket at dir until the function it returns is called.
func (s *site) mount(bucket, dir string) (unmount func()) {
	s.t.Helper()
	keys := filepath.Join(s.root, "s3fs-keys")
	if err := os.WriteFile(keys, []byte(s.access+":"+s.secret+"\n"), 0o600); err != nil {
		s.t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		s.t.Fatal(err)
	}
	c := exec.Command("s3fs", bucket, dir, "-f", "-o", fmt.Sprintf("passwd_file=%s,url=%s,use_path_request_style,endpoint=us-east-1,sigv4", keys, s.url()))
	c.Env = s.env()
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := os.CreateTemp(s.root, "s3fs-log-")
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	c.Stdout, c.Stderr = log, log
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- c.Wait() }()
	ended := false
	unmount = func() {
		if ended {
			return
		}
		ended = true
		_ = exec.Command("umount", dir).Run() // it may be gone
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			_ = c.Process.Kill()
			<-done
			s.t.Error("s3fs did not end when its folder was unmounted")
		}
	}
	s.t.Cleanup(unmount)
	for range 200 {
		if exec.Command("mountpoint", "-q", dir).Run() == nil {
			return unmount
		}
		time.Sleep(50 * time.Millisecond)
	}
	text, _ := os.ReadFile(log.Name())
	s.t.Fatalf("s3fs does not mount: %s", tail(string(text)))
	return nil
}
