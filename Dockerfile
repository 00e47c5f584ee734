# One image for every role of a cluster. It holds the program and nothing else.
#
#   docker build -t kintsugi:local .                      from source
#   docker build -t kintsugi:local --target prebuilt .    from bin/kintsugi, where
#       no registry is reachable: CGO_ENABLED=0 go build -o bin/kintsugi ./cmd/kintsugi
#
# The stage for the prebuilt binary comes first: a builder that goes through the
# stages in order then stops there and asks no registry.
FROM scratch AS prebuilt
COPY bin/kintsugi /kintsugi
ENTRYPOINT ["/kintsugi"]

FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -o /kintsugi ./cmd/kintsugi

FROM scratch AS release
COPY --from=build /kintsugi /kintsugi
ENTRYPOINT ["/kintsugi"]
