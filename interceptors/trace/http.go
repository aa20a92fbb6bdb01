package trace

import (
	"encoding/json"
	"net/http"
)

// maxAnswer is how many calls an answer has at most.
const maxAnswer = 50

// ServeHTTP answers GET and HEAD with the calls whose id is in the query, "?id=r-42", as JSON in the format that the package's doc
// shows: the newest 50 at most. It is 404 if there are none, 400 for what is no id, and without an id, unless [Options.List] is set.
//
// Who knows an id sees the call, so it is for development, or for a place that not everybody reaches: where callers
// choose ids, ids can be guessed.
func (r *Recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		header.Set("Allow", "GET, HEAD")
		http.Error(w, "want GET or HEAD", http.StatusMethodNotAllowed)
		return
	}
	ids := req.URL.Query()["id"]
	var calls []Trace
	switch {
	case len(ids) == 1 && ids[0] != "" && len(ids[0]) <= MaxIDLen:
		calls = r.newest(maxAnswer, func(t *record) bool { return t.is(ids[0]) })
	case len(ids) == 0 && r != nil && r.options.List:
		calls = append([]Trace{}, r.Recent(maxAnswer)...)
	default:
		http.Error(w, "want one id, of 1 to 128 bytes: ?id=ID", http.StatusBadRequest)
		return
	}
	if calls == nil {
		text := "no call with this id is recorded, or it was long ago"
		if !r.Enabled() {
			text = "no call with this id is recorded: recording is off"
		}
		http.Error(w, text, http.StatusNotFound)
		return
	}
	body, err := json.Marshal(map[string][]Trace{"calls": calls})
	if err != nil {
		http.Error(w, "the calls cannot be encoded", http.StatusInternalServerError)
		return
	}
	header.Set("Content-Type", "application/json")
	_, _ = w.Write(body)
}
