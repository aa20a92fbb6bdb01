package logging

import (
	"encoding/base64"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/rpcweft/weft/core"
)

// redacted stands for what no log shows.
const redacted = "[REDACTED]"

// suspects are what the names of credentials contain.
var suspects = []string{
	"auth", "cookie", "token", "secret", "passw", "credential", "session", "signature", "jwt", "api-key", "apikey", "api_key", "private", "assertion",
}

// keys are those of metadata that are redacted, beside the suspects.
type keys map[string]bool

func newKeys(list []string) (keys, error) {
	k := keys{}
	for i, key := range list {
		if _, err := core.NewMetadata(key, ""); err != nil {
			return nil, fmt.Errorf("logging: Options.RedactMetadata, %d of %d: %s", i+1, len(list), core.FindCoded(err, nil).Message())
		}
		k[strings.ToLower(key)] = true
	}
	return k, nil
}

func (k keys) secret(key string) bool {
	return k[key] || slices.ContainsFunc(suspects, func(s string) bool { return strings.Contains(key, s) })
}

// group returns metadata as a group.
func (k keys) group(name string, md *core.Metadata) slog.Attr {
	var attrs []slog.Attr
	for key, values := range md.All() {
		switch {
		case k.secret(key):
			attrs = append(attrs, slog.String(key, redacted))
		case strings.HasSuffix(key, "-bin"):
			attrs = append(attrs, slog.String(key, fmt.Sprintf("[%d values]", len(values))))
		default:
			attrs = append(attrs, slog.String(key, strings.Join(values, ", ")))
		}
	}
	return slog.Attr{Key: name, Value: slog.GroupValue(attrs...)}
}

// payload makes values of messages.
type payload struct {
	level  slog.Leveler
	max    int
	fields map[protoreflect.FullName]bool
	paths  map[protoreflect.FullName]*step // by the message with which they begin
}

// step is a field on the way to those that are redacted there, and not elsewhere.
type step struct {
	redacted bool
	next     map[protoreflect.Name]*step
}

const defaultMaxBytes = 4096

func newPayload(o Payload) (*payload, error) {
	p := &payload{level: o.Level, max: o.MaxBytes, fields: map[protoreflect.FullName]bool{}, paths: map[protoreflect.FullName]*step{}}
	if p.level == nil {
		p.level = slog.LevelDebug
	}
	switch {
	case p.max < 0:
		return nil, fmt.Errorf("logging: Payload.MaxBytes %d is negative", p.max)
	case p.max == 0:
		p.max = defaultMaxBytes
	}
	for i, name := range o.Redact {
		descriptor, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
		if _, ok := descriptor.(protoreflect.FieldDescriptor); err == nil && ok {
			p.fields[protoreflect.FullName(name)] = true
		} else if !p.addPath(name) {
			return nil, fmt.Errorf("logging: Payload.Redact, %d of %d: protobuf's registry has no field %q; "+
				"want the full name of one, shop.v1.Card.number, or a path to it, shop.v1.Order.card.number", i+1, len(o.Redact), name)
		}
	}
	return p, nil
}

// addPath adds a path of fields that begins with the full name of a message, unless there is no such path.
func (p *payload) addPath(path string) bool {
	for dot := strings.LastIndexByte(path, '.'); dot > 0; dot = strings.LastIndexByte(path[:dot], '.') {
		found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(path[:dot]))
		message, ok := found.(protoreflect.MessageDescriptor)
		if err != nil || !ok {
			continue
		}
		at := p.paths[message.FullName()]
		if at == nil {
			at = &step{next: map[protoreflect.Name]*step{}}
			p.paths[message.FullName()] = at
		}
		for name := range strings.SplitSeq(path[dot+1:], ".") {
			if message == nil {
				return false
			}
			fd := message.Fields().ByName(protoreflect.Name(name))
			if fd == nil {
				return false
			}
			if at.next[fd.Name()] == nil {
				at.next[fd.Name()] = &step{next: map[protoreflect.Name]*step{}}
			}
			at = at.next[fd.Name()]
			if message = fd.Message(); fd.IsMap() {
				message = fd.MapValue().Message()
			}
		}
		at.redacted = true
		return true
	}
	return false
}

// value returns a message as a group.
func (p *payload) value(msg any) slog.Value {
	m, ok := msg.(proto.Message)
	if !ok || !m.ProtoReflect().IsValid() {
		return slog.StringValue(fmt.Sprintf("[%T]", msg))
	}
	w := &writer{payload: p, left: p.max}
	return slog.GroupValue(w.message(m.ProtoReflect(), nil, maxDepth)...)
}

const maxDepth = 20

// writer makes the value of one message. What it has written counts against the bound.
type writer struct {
	*payload
	left int
}

const truncated = "[TRUNCATED]"

// room is how many more values there may be, about.
func (w *writer) room() int { return max(0, w.left)/perValue + 1 }

// perValue is what a value costs beside its text.
const perValue = 8

// message writes a message. The steps are those of paths on which it lies.
func (w *writer) message(m protoreflect.Message, steps []*step, depth int) []slog.Attr {
	if begin := w.paths[m.Descriptor().FullName()]; begin != nil {
		steps = append(slices.Clip(steps), begin)
	}
	if url, value, ok := anyFields(m.Descriptor()); ok {
		return w.any(m, url, value, steps, depth)
	}
	fields := []protoreflect.FieldDescriptor{}
	m.Range(func(fd protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		fields = append(fields, fd)
		return true
	})
	slices.SortFunc(fields, func(a, b protoreflect.FieldDescriptor) int { return int(a.Number()) - int(b.Number()) })
	attrs := make([]slog.Attr, 0, min(len(fields), w.room()))
	for _, fd := range fields {
		if w.left <= 0 || depth == 0 {
			return append(attrs, slog.String("...", truncated))
		}
		name := fd.TextName()
		w.left -= len(name) + perValue
		attrs = append(attrs, slog.Attr{Key: name, Value: w.field(fd, m.Get(fd), steps, depth-1)})
	}
	return attrs
}

// anyFields are those of an Any, which may be of a type that was made at run time.
func anyFields(d protoreflect.MessageDescriptor) (url, value protoreflect.FieldDescriptor, ok bool) {
	url, value = d.Fields().ByNumber(1), d.Fields().ByNumber(2)
	return url, value, d.FullName() == "google.protobuf.Any" && url != nil && url.Kind() == protoreflect.StringKind &&
		value != nil && value.Kind() == protoreflect.BytesKind && !url.IsList() && !value.IsList()
}

// any looks into an Any, which may hold what is to be redacted.
func (w *writer) any(m protoreflect.Message, url, value protoreflect.FieldDescriptor, steps []*step, depth int) []slog.Attr {
	packed := &anypb.Any{TypeUrl: m.Get(url).String(), Value: m.Get(value).Bytes()}
	attrs := []slog.Attr{{Key: "@type", Value: w.field(url, m.Get(url), steps, depth)}}
	if _, secret := w.inside(value, steps); secret {
		return append(attrs, slog.String("value", redacted))
	}
	inner, err := packed.UnmarshalNew()
	if err != nil || depth == 0 {
		return append(attrs, slog.String("value", fmt.Sprintf("[%d bytes]", len(packed.GetValue()))))
	}
	return append(attrs, w.message(inner.ProtoReflect(), nil, depth-1)...)
}

// inside returns the steps that go on in a field, or reports that the field is redacted.
func (w *writer) inside(fd protoreflect.FieldDescriptor, steps []*step) (inside []*step, secret bool) {
	options, _ := fd.Options().(*descriptorpb.FieldOptions)
	if options.GetDebugRedact() || w.fields[fd.FullName()] {
		return nil, true
	}
	for _, s := range steps {
		next := s.next[fd.Name()]
		switch {
		case next == nil || fd.IsExtension():
		case next.redacted:
			return nil, true
		default:
			inside = append(inside, next)
		}
	}
	return inside, false
}

func (w *writer) field(fd protoreflect.FieldDescriptor, v protoreflect.Value, steps []*step, depth int) slog.Value {
	inside, secret := w.inside(fd, steps)
	if secret {
		return slog.StringValue(redacted)
	}
	switch {
	case fd.IsMap():
		return w.mapping(fd, v.Map(), inside, depth)
	case fd.IsList():
		return w.list(fd, v.List(), inside, depth)
	}
	return w.single(fd, v, inside, depth)
}

func (w *writer) mapping(fd protoreflect.FieldDescriptor, m protoreflect.Map, steps []*step, depth int) slog.Value {
	var keys []protoreflect.MapKey
	m.Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool {
		keys = append(keys, k)
		return len(keys) < w.room()
	})
	slices.SortFunc(keys, func(a, b protoreflect.MapKey) int { return strings.Compare(a.String(), b.String()) })
	attrs := make([]slog.Attr, 0, len(keys))
	for _, k := range keys {
		if w.left <= 0 {
			break
		}
		name := w.text(k.String()).String()
		value := w.mapValue(fd, m.Get(k), steps, depth)
		attrs = append(attrs, slog.Attr{Key: name, Value: value})
	}
	if len(attrs) < m.Len() {
		attrs = append(attrs, slog.String("...", truncated))
	}
	return slog.GroupValue(attrs...)
}

// mapValue is the value of an entry, whose field may be listed or redacted by itself.
func (w *writer) mapValue(fd protoreflect.FieldDescriptor, v protoreflect.Value, steps []*step, depth int) slog.Value {
	entry := fd.MapValue()
	if w.fields[entry.FullName()] {
		return slog.StringValue(redacted)
	}
	return w.single(entry, v, steps, depth)
}

func (w *writer) list(fd protoreflect.FieldDescriptor, list protoreflect.List, steps []*step, depth int) slog.Value {
	items := make([]any, 0, min(list.Len(), w.room()))
	for i := range list.Len() {
		if w.left <= 0 {
			items = append(items, truncated)
			break
		}
		items = append(items, plain(w.single(fd, list.Get(i), steps, depth)))
	}
	return slog.AnyValue(items)
}

// plain makes of a group a map, because handlers do not look for groups in lists.
func plain(v slog.Value) any {
	if v.Kind() != slog.KindGroup {
		return v.Any()
	}
	m := map[string]any{}
	for _, attr := range v.Group() {
		m[attr.Key] = plain(attr.Value)
	}
	return m
}

func (w *writer) single(fd protoreflect.FieldDescriptor, v protoreflect.Value, steps []*step, depth int) slog.Value {
	w.left -= perValue
	switch fd.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return slog.GroupValue(w.message(v.Message(), steps, depth)...)
	case protoreflect.StringKind:
		return w.text(v.String())
	case protoreflect.BytesKind:
		raw := v.Bytes()
		if limit := max(0, w.left) * 3 / 4; len(raw) > limit {
			w.left = 0
			return slog.StringValue(fmt.Sprintf("%s[%d bytes]", base64.StdEncoding.EncodeToString(raw[:limit]), len(raw)))
		}
		return w.text(base64.StdEncoding.EncodeToString(raw))
	case protoreflect.EnumKind:
		value := fd.Enum().Values().ByNumber(v.Enum())
		if value == nil {
			return slog.Int64Value(int64(v.Enum()))
		}
		if options, _ := value.Options().(*descriptorpb.EnumValueOptions); options.GetDebugRedact() {
			return slog.StringValue(redacted)
		}
		return slog.StringValue(string(value.Name()))
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		if f := v.Float(); math.IsNaN(f) || math.IsInf(f, 0) {
			return slog.StringValue(strconv.FormatFloat(f, 'g', -1, 64)) // JSON has no number for it
		}
		return slog.Float64Value(v.Float())
	default:
		return slog.AnyValue(v.Interface())
	}
}

// text returns as much of s as there is room for.
func (w *writer) text(s string) slog.Value {
	if len(s) <= max(0, w.left) {
		w.left -= len(s)
		return slog.StringValue(s)
	}
	cut := max(0, w.left)
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	w.left = 0
	return slog.StringValue(fmt.Sprintf("%s[%d bytes]", s[:cut], len(s)))
}
