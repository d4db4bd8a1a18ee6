package sample

// partition moves candidates about so that c[:mid] comes before c[mid] and c[mid+1:] after it, and
// returns mid. The pivot is the median of three. c must not be empty. As no two candidates are
// equal (ids differ), equal scores cost nothing extra.
func partition(c []candidate) (mid int) {
	last := len(c) - 1
	m := last / 2
	if c[m].before(c[0]) {
		c[m], c[0] = c[0], c[m]
	}
	if c[last].before(c[0]) {
		c[last], c[0] = c[0], c[last]
	}
	if c[m].before(c[last]) {
		c[m], c[last] = c[last], c[m]
	}
	pivot := c[last]
	for i := range last {
		if c[i].before(pivot) {
			c[i], c[mid] = c[mid], c[i]
			mid++
		}
	}
	c[mid], c[last] = c[last], c[mid]
	return mid
}

// selectFirst moves the k first candidates, in any order, to the front; 0 < k <= len(c).
// Quickselect (Hoare 1961).
func selectFirst(c []candidate, k int) {
	for len(c) > 1 {
		mid := partition(c)
		switch {
		case mid == k || mid+1 == k:
			return
		case mid > k:
			c = c[:mid]
		default:
			c, k = c[mid+1:], k-mid-1
		}
	}
}
