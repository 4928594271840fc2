// A registry of images for one machine: layers are kept in a folder, what they make up in memory, so that images are
// pushed again after a start, which is quick, since their layers are there.
package main

import (
	"flag"
	"log"
	"net/http"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
)

func main() {
	address := flag.String("address", "", "HOST:PORT to listen at")
	folder := flag.String("folder", "", "where layers are kept")
	flag.Parse()
	server := &http.Server{
		Addr:              *address,
		Handler:           registry.New(registry.WithBlobHandler(registry.NewDiskBlobHandler(*folder))),
		ReadHeaderTimeout: 10 * time.Second,
	}
	log.Fatal(server.ListenAndServe())
}
