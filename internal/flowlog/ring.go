package flowlog

// ring holds the newest records, within limits. Their IDs follow each other.
type ring struct {
	limits  Limits
	records []*Record
	head    int // the first that is still there
	bytes   int
	lastID  uint64
}

func (r *ring) push(rec *Record) {
	r.lastID++
	rec.ID = r.lastID
	r.records = append(r.records, rec)
	r.bytes += rec.size()
	for r.len() > r.limits.Records || r.bytes > r.limits.Bytes && r.len() > 1 {
		r.bytes -= r.records[r.head].size()
		r.records[r.head] = nil
		r.head++
	}
	if r.head > 1024 && r.head > len(r.records)/2 {
		n := copy(r.records, r.records[r.head:])
		clear(r.records[n:])
		r.records, r.head = r.records[:n], 0
	}
}

func (r *ring) len() int { return len(r.records) - r.head }

// replace puts rec in the place of the record with its ID; false if that is forgotten.
func (r *ring) replace(rec *Record) bool {
	first := r.lastID - uint64(r.len()) + 1
	if rec.ID < first || rec.ID > r.lastID {
		return false
	}
	at := r.head + int(rec.ID-first)
	r.bytes += rec.size() - r.records[at].size()
	r.records[at] = rec
	return true
}

// all returns the records, the oldest first, in a slice of the caller's own.
func (r *ring) all() []*Record { return append([]*Record(nil), r.records[r.head:]...) }
