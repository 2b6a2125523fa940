package conntrack

import "encoding/binary"

const nestedFlag = 0x8000 // NLA_F_NESTED

// keyAttributes is a key in the form in which the kernel looks connections up: its original tuple and zone. That
// the ID is the same has to be seen in the answer.
func keyAttributes(k Key) []byte {
	source, destination := uint16(ip4Source), uint16(ip4Destination)
	if k.Original.Source.Addr.Is6() {
		source, destination = ip6Source, ip6Destination
	}
	var addresses, proto []byte
	addresses = appendAttr(addresses, source, k.Original.Source.Addr.AsSlice())
	addresses = appendAttr(addresses, destination, k.Original.Destination.Addr.AsSlice())
	proto = appendAttr(proto, protoNumber, []byte{byte(k.Protocol)})
	if k.Protocol.HasPorts() {
		proto = appendAttr(proto, protoSourcePort, binary.BigEndian.AppendUint16(nil, k.Original.Source.Port))
		proto = appendAttr(proto, protoDestPort, binary.BigEndian.AppendUint16(nil, k.Original.Destination.Port))
	}
	tuple := appendAttr(nil, tupleIP|nestedFlag, addresses)
	tuple = appendAttr(tuple, tupleProto|nestedFlag, proto)
	body := appendAttr(nil, ctaOriginal|nestedFlag, tuple)
	if k.Zone != 0 {
		body = appendAttr(body, ctaZone, binary.BigEndian.AppendUint16(nil, k.Zone))
	}
	return body
}

func appendAttr(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(attrHeader+len(value)))
	b = append(binary.NativeEndian.AppendUint16(b, kind), value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}
