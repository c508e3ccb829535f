// Command local-kms is a fake of AWS KMS, https://github.com/nsmithuk/local-kms, that serves
// by https as well, as AWS does: spec.seal takes no other endpoint.
package main

import (
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"time"

	"github.com/nsmithuk/local-kms/src"
	"github.com/nsmithuk/local-kms/src/config"
)

// plainPort is where it serves without TLS, for tests that change the key.
const plainPort = "8080"

func main() {
	config.AWSAccountId, config.AWSRegion, config.DatabasePath = "111122223333", os.Getenv("KMS_REGION"), "/tmp/local-kms"
	go src.Run(plainPort, os.Getenv("KMS_SEED_PATH"))
	server := &http.Server{
		Addr:              ":8443",
		Handler:           httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "127.0.0.1:" + plainPort}),
		ReadHeaderTimeout: 10 * time.Second,
	}
	log.Fatal(server.ListenAndServeTLS("/tls/tls.crt", "/tls/tls.key"))
}
