"""Networks: encoder, recurrent cells, attention, decoder, and the caption model."""
