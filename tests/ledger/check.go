// Verifies a log that staithe wrote with Go's own code for transparency logs (golang.org/x/mod/sumdb), which checks the Go checksum
// database in every `go get`. Only the way from the log's files to entries and tiles is ours, after docs/ledger.md.
//
// usage: check LOG KEYS KEPT     a directory of a log, its file of keys, a directory of checkpoints that were kept
package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	height = 8 // of tiles: 256 hashes
	header = 4096
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: check LOG KEYS KEPT")
		os.Exit(2)
	}
	said, err := check(os.Args[1], os.Args[2], os.Args[3])
	if err != nil {
		fmt.Println("refused:", err)
		os.Exit(1)
	}
	fmt.Println(said)
}

func check(dir, keys, kept string) (string, error) {
	verifier, err := key(keys)
	if err != nil {
		return "", err
	}
	latest, err := checkpoint(filepath.Join(dir, "checkpoint"), verifier)
	if err != nil {
		return "", err
	}
	entries, err := segments(dir)
	if err != nil {
		return "", err
	}
	if int64(len(entries)) < latest.N {
		return "", fmt.Errorf("the checkpoint is over %d entries, and %d are there", latest.N, len(entries))
	}
	log := &files{dir: dir, entries: entries}
	reader := tlog.TileHashReader(latest, log)
	if err := everyRecord(latest, entries, reader); err != nil {
		return "", err
	}
	tiles, err := everyTile(dir, latest, reader)
	if err != nil {
		return "", err
	}
	earlier, err := everyEarlier(latest, verifier, reader, dir, kept)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d records, %d tiles and %d earlier checkpoints", latest.N, tiles, earlier), nil
}

// key finds the Ed25519 key. What else is in the file is of kinds that this code does not know.
func key(path string) (note.Verifier, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var found []note.Verifier
	for _, line := range strings.Split(string(text), "\n") {
		if verifier, err := note.NewVerifier(line); err == nil {
			found = append(found, verifier)
		}
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("%s has %d keys for Ed25519", path, len(found))
	}
	return found[0], nil
}

// checkpoint opens a signed checkpoint: three lines, of which the first is the name of the key.
func checkpoint(path string, verifier note.Verifier) (tlog.Tree, error) {
	message, err := os.ReadFile(path)
	if err != nil {
		return tlog.Tree{}, err
	}
	opened, err := note.Open(message, note.VerifierList(verifier))
	if err != nil {
		return tlog.Tree{}, fmt.Errorf("%s: %w", path, err)
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[0] != verifier.Name() {
		return tlog.Tree{}, fmt.Errorf("%s is no checkpoint of %s", path, verifier.Name())
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || strconv.FormatInt(size, 10) != lines[1] {
		return tlog.Tree{}, fmt.Errorf("%s has the size %q", path, lines[1])
	}
	root, err := tlog.ParseHash(lines[2])
	if err != nil {
		return tlog.Tree{}, fmt.Errorf("%s: %w", path, err)
	}
	return tlog.Tree{N: size, Hash: root}, nil
}

// segments reads all entries. The checksums of frames are passed over: they prove nothing.
func segments(dir string) ([][]byte, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "wal", "*.seg"))
	if err != nil {
		return nil, err
	}
	var entries [][]byte
	for _, path := range paths { // Glob sorts.
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if len(content) < header || !bytes.HasPrefix(content, []byte("tlogseg\x01")) {
			return nil, fmt.Errorf("%s is no segment", path)
		}
		if first := binary.LittleEndian.Uint64(content[16:]); first != uint64(len(entries)) {
			return nil, fmt.Errorf("%s begins at %d, not at %d", path, first, len(entries))
		}
		for rest := content[header:]; len(rest) >= 8; {
			word := binary.LittleEndian.Uint32(rest)
			kind, end := word>>24, 8+int(word&0xffffff)
			if word == 0 {
				break
			}
			if kind != 1 && kind != 2 || end > len(rest) {
				return nil, fmt.Errorf("%s has a frame of kind %d that is none", path, kind)
			}
			if kind == 1 {
				entries = append(entries, rest[8:end])
			}
			rest = rest[end:]
		}
	}
	return entries, nil
}

func everyRecord(latest tlog.Tree, entries [][]byte, reader tlog.HashReader) error {
	for index := int64(0); index < latest.N; index++ {
		proof, err := tlog.ProveRecord(latest.N, index, reader)
		if err != nil {
			return fmt.Errorf("record %d: %w", index, err)
		}
		if err := tlog.CheckRecord(proof, latest.N, latest.Hash, index, tlog.RecordHash(entries[index])); err != nil {
			return fmt.Errorf("record %d: %w", index, err)
		}
	}
	return nil
}

// everyTile compares each full tile below the checkpoint with what the tree makes of it.
func everyTile(dir string, latest tlog.Tree, reader tlog.HashReader) (int, error) {
	count := 0
	for _, tile := range tlog.NewTiles(height, 0, latest.N) {
		if tile.W != 1<<height {
			continue
		}
		wanted, err := tlog.ReadTileData(tile, reader)
		if err != nil {
			return count, fmt.Errorf("%s: %w", path(tile), err)
		}
		there, err := os.ReadFile(filepath.Join(dir, path(tile)))
		if err != nil {
			return count, err
		}
		if !bytes.Equal(wanted, there) {
			return count, fmt.Errorf("%s is not what the tree makes of it", path(tile))
		}
		count++
	}
	return count, nil
}

// everyEarlier checks that the log of now begins with the log of each earlier checkpoint: the archived ones, and the kept ones.
func everyEarlier(latest tlog.Tree, verifier note.Verifier, reader tlog.HashReader, dir, kept string) (int, error) {
	var paths []string
	for _, pattern := range []string{filepath.Join(dir, "archive", "*"), filepath.Join(kept, "*")} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return 0, err
		}
		paths = append(paths, found...)
	}
	count := 0
	for _, path := range paths {
		earlier, err := checkpoint(path, verifier)
		if err != nil {
			return count, err
		}
		if earlier.N > latest.N {
			return count, fmt.Errorf("%s is over %d entries, the log over %d", path, earlier.N, latest.N)
		}
		if earlier.N == 0 { // Everything begins with nothing, and this code has no proof of that.
			continue
		}
		proof, err := tlog.ProveTree(latest.N, earlier.N, reader)
		if err != nil {
			return count, fmt.Errorf("%s: %w", path, err)
		}
		if err := tlog.CheckTree(proof, latest.N, latest.Hash, earlier.N, earlier.Hash); err != nil {
			return count, fmt.Errorf("%s: %w", path, err)
		}
		count++
	}
	return count, nil
}

// files gives tiles: full ones are files, partial ones are made of what lies below them.
type files struct {
	dir     string
	entries [][]byte
}

func (f *files) Height() int { return height }

func (f *files) SaveTiles([]tlog.Tile, [][]byte) {}

func (f *files) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var all [][]byte
	for _, tile := range tiles {
		data, err := f.tile(tile)
		if err != nil {
			return nil, err
		}
		all = append(all, data)
	}
	return all, nil
}

func (f *files) tile(tile tlog.Tile) ([]byte, error) {
	if tile.W == 1<<height {
		data, err := os.ReadFile(filepath.Join(f.dir, path(tile)))
		if err == nil && len(data) != tile.W*tlog.HashSize {
			err = fmt.Errorf("%s has %d bytes", path(tile), len(data))
		}
		return data, err
	}
	var data []byte
	for within := 0; within < tile.W; within++ {
		hash, err := f.hash(tile.L, tile.N<<height+int64(within))
		if err != nil {
			return nil, err
		}
		data = append(data, hash[:]...)
	}
	return data, nil
}

// hash is hash `index` of a level of tiles: that of an entry, or of a whole tile below.
func (f *files) hash(level int, index int64) (tlog.Hash, error) {
	if level == 0 {
		if index >= int64(len(f.entries)) {
			return tlog.Hash{}, errors.New("a tile is asked for that reaches beyond the log")
		}
		return tlog.RecordHash(f.entries[index]), nil
	}
	data, err := f.tile(tlog.Tile{H: height, L: level - 1, N: index, W: 1 << height})
	if err != nil {
		return tlog.Hash{}, err
	}
	hashes := make([]tlog.Hash, 1<<height)
	for at := range hashes {
		copy(hashes[at][:], data[at*tlog.HashSize:])
	}
	for len(hashes) > 1 {
		for at := 0; at < len(hashes)/2; at++ {
			hashes[at] = tlog.NodeHash(hashes[2*at], hashes[2*at+1])
		}
		hashes = hashes[:len(hashes)/2]
	}
	return hashes[0], nil
}

// path is the name of a tile in C2SP tlog-tiles: that of the checksum database without the height.
func path(tile tlog.Tile) string {
	return strings.Replace(tile.Path(), fmt.Sprintf("tile/%d/", height), "tile/", 1)
}
